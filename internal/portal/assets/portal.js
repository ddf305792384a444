// Enhancement only: every page works without this file.
(function () {
  "use strict";

  // Copy buttons are hidden until a script can make them work.
  document.querySelectorAll("button[data-copy]").forEach(function (button) {
    if (!navigator.clipboard) return;
    button.hidden = false;
    var words = button.textContent;
    button.addEventListener("click", function () {
      var source = document.getElementById(button.dataset.copy);
      navigator.clipboard.writeText(source.textContent.trim()).then(function () {
        button.textContent = button.dataset.done;
        setTimeout(function () { button.textContent = words; }, 2000);
      });
    });
  });

  // A store list that is on the page as a whole is narrowed while typing;
  // one that has further pages goes to the server.
  document.querySelectorAll("input[data-filter]").forEach(function (input) {
    var list = document.getElementById(input.dataset.filter);
    if (!list || list.dataset.whole !== "true") return;
    var rows = Array.from(list.children);
    input.addEventListener("input", function () {
      var wanted = input.value.trim().toLocaleLowerCase();
      rows.forEach(function (row) {
        row.hidden = wanted !== "" && !row.textContent.toLocaleLowerCase().includes(wanted);
      });
    });
    input.addEventListener("keydown", function (event) {
      if (event.key === "Enter") event.preventDefault();
    });
  });

  // "Tick all" acts at once where every store is on the page. It ticks what is
  // shown, as the server does with the search it was sent. Of it and its reverse
  // the one that would do nothing is hidden.
  document.querySelectorAll("ul[data-whole=true]").forEach(function (list) {
    var buttons = document.querySelectorAll("button[data-tick=" + list.id + "]");
    list.addEventListener("change", function () {
      var boxes = Array.from(list.querySelectorAll("input[type=checkbox]:not(:disabled)"));
      buttons.forEach(function (button) {
        button.hidden = boxes.every(function (box) { return box.checked === (button.value === "all"); });
      });
    });
    // A browser may bring back ticks of its own accord.
    window.addEventListener("pageshow", function () { list.dispatchEvent(new Event("change")); });
    buttons.forEach(function (button) {
      button.addEventListener("click", function (event) {
        event.preventDefault();
        list.querySelectorAll("li:not([hidden]) input[type=checkbox]:not(:disabled)").forEach(function (box) {
          box.checked = button.value === "all";
        });
        list.dispatchEvent(new Event("change"));
        if (button.hidden) buttons.forEach(function (other) { if (!other.hidden) other.focus(); });
      });
    });
  });

  // The number of ticked stores follows the ticks, those on other pages included. Of
  // the only store a sentence says what its tick means.
  document.querySelectorAll("[data-counts][data-words]").forEach(function (hint) {
    var list = document.getElementById(hint.dataset.counts);
    list.addEventListener("change", function () {
      var ticked = list.querySelectorAll("input:checked").length +
        list.closest("form").querySelectorAll("input[type=hidden][name=store]").length;
      hint.textContent = ticked && hint.dataset.sole || hint.dataset.words.replace("{n}", ticked.toLocaleString(document.documentElement.lang));
    });
  });

  // A press that was meant for what was on the screen a moment ago decides nothing
  // (attack B13): such a button counts once the page has been in view for a while.
  document.querySelectorAll("button[data-settle]").forEach(function (button) {
    var timer = 0;
    function hold() {
      clearTimeout(timer);
      timer = 0;
      button.setAttribute("aria-disabled", "true");
    }
    function settle() {
      hold();
      timer = setTimeout(function () {
        timer = 0;
        button.removeAttribute("aria-disabled");
      }, 500);
    }
    button.addEventListener("click", function (event) {
      if (!button.hasAttribute("aria-disabled")) return;
      event.preventDefault();
      if (!timer) settle(); // a window may be used without ever saying that it has the focus
    });
    window.addEventListener("blur", hold);
    window.addEventListener("focus", settle);
    window.addEventListener("pageshow", settle);
    document.addEventListener("visibilitychange", function () { document.hidden ? hold() : settle(); });
    settle();
  });

  // A form is sent once; the second press of a double click is dropped. Who stopped waiting
  // may press again after a while.
  document.querySelectorAll("form[data-once]").forEach(function (form) {
    var sent = false;
    form.addEventListener("submit", function (event) {
      if (sent) return event.preventDefault();
      sent = true;
      setTimeout(function () { sent = false; }, 5000);
    });
    window.addEventListener("pageshow", function () { sent = false; });
  });
})();
