// Package portal is everything a person sees: sign-in and sign-up, consent, the page that hands the browser back to the
// app, connected apps, the developer portal and the operator's pages.
//
// Pages are plain HTML that works without JavaScript. No page of ours answers a form with a redirect that leaves this
// origin: browsers apply form-action 'self' to the whole redirect chain, so the one way out is the page "Returning you to
// APP", which is a 200 with a refresh and a link.
//
// # How a page is added
//
//  1. Template: templates/NAME.html with {{define "main"}}. It receives the view only. Text of other people stands inside
//     <bdi>; every sentence is {{t "id"}} or, with emphasis or other people's text in it, {{rich "id" "Key" value}}.
//     In a message, **words** are strong; Count picks the plural form. Other functions: count, day, when, ago, stamp,
//     brand, support, asset, notice, problem (see funcs in render.go). Partials, in *_parts.html and icons.html: mark, badge, scopes,
//     notice, field-error, icon-*.
//  2. View: a struct that holds what the page shows and no more (views.go); errors are message ids, never sentences.
//  3. Messages: messages/en.json and messages/de.json, or AREA.en.json and AREA.de.json, among them title.NAME, unless the page names another title. A test compares the two and draws every
//     page with a pseudo-locale, so a sentence left in a template fails.
//  4. Handler: p.render(w, r, status, page{Name: "NAME", Frame: framePlain or frameWide, Account: …, Body: view}).
//     It sends the security headers and answers from a buffer. POST handlers sit behind the origin check of New;
//     pages about an account are wrapped in p.signedIn.
//  5. Preview: a case in previews (preview_test.go); GRANTWAY_SHOTS=folder draws it in Chromium, light and dark.
package portal
