// The log of a task, as it is written: server-sent events, and what was there already.
"use strict";

(() => {
  const MOST = 400_000; // characters that are kept: what came before can be downloaded
  const AGAIN = 10_000; // milliseconds before the service is asked again after a refusal
  const section = document.querySelector("[data-logs]");
  if (!section) return;
  const box = section.querySelector("pre");
  const state = section.querySelector("[data-logs-state]");
  const follow = section.querySelector("[data-logs-follow]");
  const form = section.querySelector("[data-logs-form]");
  const title = section.querySelector("[data-logs-task]");
  const download = section.querySelector("a[download]");
  let source = null;
  let timer = 0;

  function atEnd() {
    return box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  }

  function add(text) {
    const stay = !atEnd();
    box.append(text);
    if (box.textContent.length > MOST) box.textContent = box.textContent.slice(-MOST / 2);
    if (!stay) box.scrollTop = box.scrollHeight;
    state.textContent = "";
  }

  function address() {
    const url = new URL(section.dataset.logs, location.href);
    for (const [key, value] of new FormData(form)) if (value) url.searchParams.set(key, value);
    url.searchParams.set("follow", "true");
    return url;
  }

  function stop(words) {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
    if (words) state.textContent = words;
  }

  function start() {
    stop();
    box.textContent = "";
    state.textContent = "It has said nothing yet.";
    source = new EventSource(address());
    source.addEventListener("task", (event) => {
      const { stage, task } = JSON.parse(event.data);
      title.textContent = `of ${stage}, task ${task}`;
      const whole = new URL(section.dataset.logs, location.href);
      const stream = form.elements.stream.value;
      for (const [key, value] of Object.entries({ stage, task, stream })) whole.searchParams.set(key, value);
      download.href = whole;
      box.textContent = "";
    });
    source.addEventListener("restart", () => { box.textContent = ""; });
    source.addEventListener("log", (event) => add(JSON.parse(event.data).text));
    source.addEventListener("end", () => stop(box.textContent ? "This is all." : "It said nothing."));
    source.addEventListener("error", () => {
      if (!source || source.readyState !== EventSource.CLOSED) return; // it tries again by itself
      stop("The log cannot be followed now; it is tried again.");
      timer = setTimeout(start, AGAIN);
    });
  }

  follow.addEventListener("change", () => (follow.checked ? start() : stop("Not followed.")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    follow.checked = true;
    start();
  });
  form.addEventListener("change", () => form.requestSubmit());
  // What is not looked at is not asked for: every open stream is a place taken in the service.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop();
    else if (follow.checked) start();
  });
  box.scrollTop = box.scrollHeight;
  start();
})();
