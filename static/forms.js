/* A form with data-once is sent once: its buttons rest until the answer is there, or the page is shown again. */
(() => {
  "use strict";
  const buttons = (form) => form.querySelectorAll("button");
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-once]")) return;
    if (event.target.dataset.sent) { event.preventDefault(); return; }
    event.target.dataset.sent = "true";
    // After the event: a button that is disabled during it is not part of what is sent.
    setTimeout(() => buttons(event.target).forEach((button) => { button.disabled = true; }));
  });
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    for (const form of document.querySelectorAll("form[data-sent]")) {
      delete form.dataset.sent;
      buttons(form).forEach((button) => { button.disabled = false; });
    }
  });
})();
