// Every page: what is live comes anew by itself, and what is to be copied can be.
"use strict";

document.documentElement.classList.add("scripted");

(() => {
  const PATIENCE = 60; // seconds between two looks at a service that does not answer
  const told = document.getElementById("told");

  // Change a part of the page into a newer one, node by node, so that focus, selection and what is open stay.
  function change(old, now) {
    const before = [...old.childNodes];
    let place = 0;
    for (const node of [...now.childNodes]) {
      const found = before.findIndex((each, at) => at >= place && isSame(each, node));
      if (found < 0) {
        old.insertBefore(node, before[place] || null);
        continue;
      }
      before.slice(place, found).forEach((each) => each.remove());
      const there = before[found];
      place = found + 1;
      if (node.nodeType === Node.ELEMENT_NODE && !there.isEqualNode(node)) {
        attributes(there, node);
        change(there, node);
      } else if (there.nodeValue !== node.nodeValue) there.nodeValue = node.nodeValue;
    }
    before.slice(place).forEach((each) => each.remove());
  }

  function isSame(there, node) {
    return there.nodeName === node.nodeName && keyOf(there) === keyOf(node);
  }

  function keyOf(node) {
    if (node.nodeType !== Node.ELEMENT_NODE) return "";
    return node.id || node.dataset.key || node.getAttribute("aria-labelledby") || "";
  }

  function attributes(there, node) {
    const mine = there.nodeName === "DETAILS" ? ["open"] : [];
    for (const { name } of [...there.attributes]) {
      if (!node.hasAttribute(name) && !mine.includes(name)) there.removeAttribute(name);
    }
    for (const { name, value } of [...node.attributes]) {
      if (there.getAttribute(name) !== value) there.setAttribute(name, value);
    }
  }

  // What has another state than before is told once, for who listens; not what only counts on.
  function sayings(root) {
    return new Map([...root.querySelectorAll("[data-told]")].map((each) => [each.dataset.key, each.dataset.told]));
  }

  function announce(before, after) {
    const news = [...after].filter(([key, words]) => before.has(key) && before.get(key) !== words);
    if (news.length) told.textContent = news.map(([, words]) => words).join(". ");
  }

  function live(first) {
    const parts = [...document.querySelectorAll("[data-part]")];
    const address = new URL(location.href);
    address.searchParams.set("part", "live");
    address.hash = "";
    let every = Number(first.dataset.every);
    let tag = "";
    let wait = every;
    let timer = 0;

    async function look() {
      clearTimeout(timer);
      if (document.hidden || !every) return;
      try {
        const reply = await fetch(address, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
        if (reply.status === 401 || reply.status === 404) return; // logged out, or deleted meanwhile
        if (reply.ok) take(await reply.text(), reply.headers);
        wait = reply.ok || reply.status === 304 ? every : Math.min(2 * wait, PATIENCE);
      } catch {
        wait = Math.min(2 * wait, PATIENCE);
      }
      timer = setTimeout(look, 1000 * wait);
    }

    function take(text, headers) {
      tag = headers.get("ETag") || "";
      const fresh = new DOMParser().parseFromString(text, "text/html");
      for (const part of parts) {
        const now = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
        if (!now) continue;
        const before = sayings(part);
        if (now.dataset.every) every = Number(now.dataset.every);
        change(part, now);
        announce(before, sayings(part));
      }
    }

    document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
    timer = setTimeout(look, 1000 * every);
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const words = button.textContent;
    try {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
      told.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = words; }, 2000);
  });

  // What was done is said once, not again whenever the page is loaded.
  const here = new URL(location.href);
  if (here.searchParams.has("said")) {
    here.searchParams.delete("said");
    history.replaceState(null, "", here);
  }

  const first = document.querySelector("[data-part][data-every]");
  if (first) live(first);
})();
