// Checking without leaving the page; a job.json that is dropped or chosen.
"use strict";

(() => {
  const forms = [...document.querySelectorAll("[data-job]")];
  if (!forms.length) return;
  const typed = document.querySelector('[data-job="text"]');
  const area = document.getElementById("job");
  const chosen = document.getElementById("job-file");
  const told = document.getElementById("told");

  async function check(form) {
    const outcome = document.getElementById("outcome");
    outcome.setAttribute("aria-busy", "true");
    const fields = new URLSearchParams(new FormData(form));
    fields.set("do", "check");
    try {
      const reply = await fetch(form.action, { method: "POST", body: fields, headers: { Accept: "text/html" } });
      const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
      const now = fresh.getElementById("outcome");
      if (now) outcome.innerHTML = now.innerHTML;
      else tell(outcome, fresh.querySelector("main .what")?.textContent || `The service answered ${reply.status}.`);
    } catch {
      tell(outcome, "The service does not answer now; try again.");
    }
    outcome.removeAttribute("aria-busy");
    told.textContent = outcome.querySelector("h2").textContent;
    outcome.focus({ preventScroll: true });
    outcome.scrollIntoView({ block: "nearest" });
  }

  function tell(outcome, words) {
    const title = document.createElement("h2");
    title.id = "outcome-title";
    title.textContent = "It could not be checked";
    const text = document.createElement("p");
    text.textContent = words;
    outcome.replaceChildren(title, text);
  }

  async function take(file) {
    area.value = await file.text();
    document.querySelectorAll("details.way").forEach((way) => { way.open = way.contains(area); });
    choose();
    check(typed);
  }

  // The folder that the job names, where there is one.
  function choose() {
    let name = "";
    try {
      name = JSON.parse(area.value).name;
    } catch {
      return; // the check says what is wrong with it
    }
    const folder = typed.elements.folder;
    folder.value = [...folder.options].some((each) => each.value === name) ? name : "";
  }

  for (const form of forms) {
    form.addEventListener("submit", (event) => {
      if (event.submitter?.value === "check") {
        event.preventDefault();
        check(form);
      } else if (event.submitter?.value === "submit") {
        // Twice is harmless, its key is the same; but it looks as if it were not.
        setTimeout(() => { event.submitter.disabled = true; });
      }
    });
  }
  addEventListener("pageshow", () => {
    document.querySelectorAll("[data-job] button").forEach((button) => { button.disabled = false; });
  });
  forms[0].elements.folder.addEventListener("change", () => {
    forms[0].requestSubmit(forms[0].querySelector('[value="choose"]'));
  });
  chosen.addEventListener("change", () => chosen.files.length && take(chosen.files[0]));
  document.addEventListener("dragover", (event) => { event.preventDefault(); typed.classList.add("dropping"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) typed.classList.remove("dropping"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    typed.classList.remove("dropping");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
})();
