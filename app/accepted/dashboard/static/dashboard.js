// Keeps an open page as it would be if it were loaded again: one stream of events for all of it. Everything works
// without this file.
"use strict";
(() => {
  // ms until the page is read again after a change, and at least between two reads: of the state, and of figures
  const SOON = 300, OFTEN = 5000, LEISURE = 20000;
  const main = document.querySelector("main");
  const stale = document.getElementById("stale");
  let due = null, dueAt = 0, reading = false, lastRead = 0;

  // Makes `from` what `to` is, and touches nothing that is the same: focus, selection and open details stay.
  function morph(from, to) {
    if (from.nodeName !== to.nodeName || from.id !== to.id) return from.replaceWith(to.cloneNode(true));
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    if (from.dataset.checks) return; // shown by this script
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
    }
    for (const { name, value } of [...to.attributes]) {
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    children(from, to);
  }

  function children(from, to) {
    const known = new Map([...from.children].filter((one) => one.id).map((one) => [one.id, one]));
    let at = from.firstChild;
    for (const wanted of [...to.childNodes]) {
      const same = wanted.id && known.get(wanted.id);
      if (same && same !== at) from.insertBefore(same, at);
      const here = same || at;
      if (!here || (!same && here.id && here.id !== wanted.id)) {
        from.insertBefore(wanted.cloneNode(true), here);
        continue;
      }
      at = here.nextSibling;
      morph(here, wanted);
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function isBusy(part) {
    const selected = document.getSelection();
    const marking = selected && !selected.isCollapsed && part.contains(selected.anchorNode);
    return marking || [...part.querySelectorAll("input, textarea, select")].some((one) => one === document.activeElement);
  }

  function isTyping() {
    return [...main.querySelectorAll("input:not([type=hidden]), textarea")].some((one) => one.value !== one.defaultValue);
  }

  async function read() {
    due = null;
    if (reading || document.hidden) return void later(SOON * 3);
    reading = true;
    try {
      const answer = await fetch(location.href, { headers: { "X-Live": "1" } });
      if (answer.redirected && isTyping()) return say("Your session has ended. What you send is kept while you sign in.");
      if (answer.redirected) return location.reload();
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      say(answer.ok ? "" : `Not up to date: ${page.querySelector("h1")?.textContent ?? answer.status}`);
      for (const part of answer.ok ? document.querySelectorAll("[data-live]") : []) {
        const now = page.getElementById(part.id);
        if (now && !isBusy(part)) morph(part, now);
      }
    } catch {
      say("Not up to date: the service does not answer.");
    } finally {
      reading = false;
      lastRead = Date.now();
    }
  }

  function say(text) {
    stale.hidden = !text;
    if (stale.textContent !== text) stale.textContent = text;
  }

  function later(ms) {
    if (due !== null && dueAt <= Date.now() + ms) return;
    clearTimeout(due);
    dueAt = Date.now() + ms;
    due = setTimeout(read, ms);
  }

  const UNITS = [["s", 1, 100], ["min", 60, 6000], ["h", 3600, 172800], ["d", 86400, Infinity]];
  function relative(seconds) {
    const of = Math.abs(seconds);
    if (of < 1) return "now";
    const [unit, length] = UNITS.find(([, , limit]) => of < limit);
    const text = `${(of / length).toFixed(0)} ${unit}`;
    return seconds > 0 ? `${text} ago` : `in ${text}`;
  }
  function tick() {
    for (const one of document.querySelectorAll("time[datetime]")) {
      const text = relative((Date.now() - Date.parse(one.dateTime)) / 1000);
      if (!document.hidden && one.textContent !== text) one.textContent = text;
    }
  }
  setInterval(tick, 5000);

  document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

  for (const all of document.querySelectorAll("[data-checks]")) {
    all.hidden = false;
    all.addEventListener("change", () => {
      for (const one of document.querySelectorAll(`input[name="${all.dataset.checks}"]`)) one.checked = all.checked;
    });
  }
  for (const button of document.querySelectorAll("[data-copies]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
      button.textContent = "Copied";
    });
  }

  const events = document.body.dataset.events;
  if (events && main.querySelector("[data-live]")) {
    const source = new EventSource(events);
    const after = (ms) => () => later(Math.max(SOON, lastRead + ms - Date.now()));
    source.addEventListener("state", after(OFTEN));
    source.addEventListener("figures", after(LEISURE));
    addEventListener("pagehide", () => source.close());
    addEventListener("pageshow", (shown) => shown.persisted && location.reload());
    document.addEventListener("visibilitychange", () => document.hidden || later(SOON));
  }
})();
