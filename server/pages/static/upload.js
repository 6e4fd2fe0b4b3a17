// A folder is sent as one stream, with how much of it has left; dropped or chosen.
"use strict";

(() => {
  const form = document.querySelector("[data-upload]");
  if (!form) return;
  const file = form.elements.file;
  const name = form.elements.name;
  const sending = form.querySelector(".sending");
  const bar = sending.querySelector("progress");
  const sent = sending.querySelector("[data-sent]");
  const wrong = form.querySelector(".wrong");
  const button = form.querySelector(".primary");
  let request = null;

  function base(path) {
    return path.replace(/\.(zip|tar(\.\w+)?|tgz|tbz2|txz|tzst)$/i, "").replace(/[^A-Za-z0-9_.+-]+/g, "_");
  }

  function chosen() {
    if (file.files.length && !name.value) name.value = base(file.files[0].name);
  }

  function say(words) {
    wrong.textContent = words;
    wrong.hidden = !words;
  }

  function size(bytes) {
    return bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} kB` : `${(bytes / 2 ** 20).toFixed(1)} MB`;
  }

  function ended() {
    request = null;
    sending.hidden = true;
    button.disabled = false;
  }

  function reason(reply) {
    try {
      return JSON.parse(reply.responseText).error;
    } catch {
      return `the service answered ${reply.status}`;
    }
  }

  function send() {
    say("");
    request = new XMLHttpRequest();
    request.open("PUT", form.dataset.upload + encodeURIComponent(name.value));
    request.setRequestHeader("X-CSRF-Token", form.elements.csrf.value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      bar.value = event.loaded / event.total;
      const all = event.loaded === event.total;
      sent.textContent = all ? "Unpacking…" : `${size(event.loaded)} of ${size(event.total)}`;
    });
    request.addEventListener("load", () => {
      const reply = request;
      ended();
      if (reply.status < 300) location.assign(form.dataset.done.replace("NAME", encodeURIComponent(name.value)));
      else say(reason(reply));
    });
    request.addEventListener("error", () => { ended(); say("The connection was lost: nothing was kept; try again."); });
    request.addEventListener("abort", () => { ended(); say("Stopped: nothing was kept."); });
    bar.value = 0;
    sent.textContent = "";
    sending.hidden = false;
    button.disabled = true;
    request.send(file.files[0]);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!request) send();
  });
  form.querySelector("[data-stop]").addEventListener("click", () => request && request.abort());
  file.addEventListener("change", chosen);
  chosen();

  document.addEventListener("dragover", (event) => { event.preventDefault(); form.classList.add("dropping"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) form.classList.remove("dropping"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("dropping");
    if (!event.dataTransfer.files.length) return;
    file.files = event.dataTransfer.files;
    name.value = "";
    chosen();
    button.focus();
  });
})();
