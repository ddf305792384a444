package conformance

import (
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// form is an HTML form with the inputs and the submit buttons that belong to it.
type form struct {
	node            *html.Node
	inputs, buttons []*html.Node
}

// forms lists the page's forms in document order.
func (p *page) forms() []*form {
	var all []*form
	byID := map[string]*form{}
	byNode := map[*html.Node]*form{}
	walk(p.doc, func(n *html.Node) {
		if n.Data == "form" {
			f := &form{node: n}
			all = append(all, f)
			byNode[n] = f
			if id := attr(n, "id"); id != "" {
				byID[id] = f
			}
		}
	})
	walk(p.doc, func(n *html.Node) {
		f := byID[attr(n, "form")]
		for up := n.Parent; f == nil && up != nil; up = up.Parent {
			f = byNode[up]
		}
		if f == nil || has(n, "disabled") {
			return
		}
		kind := strings.ToLower(attr(n, "type"))
		switch {
		case n.Data == "button" && (kind == "" || kind == "submit"), n.Data == "input" && kind == "submit":
			f.buttons = append(f.buttons, n)
		case n.Data == "input" && kind != "button" && kind != "reset", n.Data == "textarea", n.Data == "select":
			f.inputs = append(f.inputs, n)
		}
	})
	return all
}

// form returns the first form with a button that fits.
func (p *page) form(fits func(*form) bool) *form {
	for _, f := range p.forms() {
		if len(f.buttons) > 0 && fits(f) {
			return f
		}
	}
	return nil
}

// button returns the submit button with a label; of several, the one that lies closest to the text near.
func (p *page) button(label, near string) (*form, *html.Node) {
	var bestForm *form
	var best *html.Node
	bestClimb := -1
	for _, f := range p.forms() {
		for _, n := range f.buttons {
			name := text(n)
			if n.Data == "input" {
				name = attr(n, "value")
			}
			if name != label {
				continue
			}
			climb := 0
			for up := n; near != "" && !strings.Contains(text(up), near); climb++ {
				if up = up.Parent; up == nil {
					climb = -1
					break
				}
			}
			if climb >= 0 && (best == nil || climb < bestClimb) {
				bestForm, best, bestClimb = f, n, climb
			}
		}
	}
	return bestForm, best
}

// field returns the first input with an attribute's value.
func (f *form) field(name, value string) *html.Node {
	for _, n := range f.inputs {
		if attr(n, name) == value {
			return n
		}
	}
	return nil
}

// values is what a browser would send if the button were pressed at once.
func (f *form) values(button *html.Node) url.Values {
	v := url.Values{}
	for _, n := range f.inputs {
		name, kind := attr(n, "name"), strings.ToLower(attr(n, "type"))
		switch {
		case name == "", (kind == "checkbox" || kind == "radio") && !has(n, "checked"):
		case n.Data == "textarea":
			v.Add(name, text(n))
		case n.Data == "select":
			v.Add(name, selected(n))
		case (kind == "checkbox" || kind == "radio") && !has(n, "value"):
			v.Add(name, "on")
		default:
			v.Add(name, attr(n, "value"))
		}
	}
	if name := attr(button, "name"); name != "" {
		v.Add(name, attr(button, "value"))
	}
	return v
}

func selected(list *html.Node) string {
	var chosen *html.Node
	walk(list, func(n *html.Node) {
		if n.Data == "option" && (chosen == nil || has(n, "selected")) {
			chosen = n
		}
	})
	switch {
	case chosen == nil:
		return ""
	case has(chosen, "value"):
		return attr(chosen, "value")
	}
	return text(chosen)
}

// walk visits every element below n, and n itself, in document order.
func walk(n *html.Node, visit func(*html.Node)) {
	if n.Type == html.ElementNode {
		visit(n)
	}
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		walk(c, visit)
	}
}

// text is what a reader sees of n, with runs of space as one.
func text(n *html.Node) string {
	var b strings.Builder
	var collect func(*html.Node)
	collect = func(n *html.Node) {
		switch {
		case n.Type == html.TextNode:
			b.WriteString(n.Data)
		case n.Data == "script" || n.Data == "style" || n.Data == "head":
		default:
			for c := n.FirstChild; c != nil; c = c.NextSibling {
				collect(c)
			}
			if n.Type == html.ElementNode {
				b.WriteByte(' ')
			}
		}
	}
	collect(n)
	return strings.Join(strings.Fields(b.String()), " ")
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(n *html.Node, name string) bool {
	for _, a := range n.Attr {
		if a.Key == name {
			return true
		}
	}
	return false
}
