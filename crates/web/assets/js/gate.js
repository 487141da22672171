// The sign-in page: showing the password while a finger or eye wants it, and the count-down after failures.

const reveal = document.querySelector("[data-reveal]");
if (reveal) {
  reveal.hidden = false;
  reveal.addEventListener("click", () => {
    const field = document.getElementById("password");
    const show = field.type === "password";
    field.type = show ? "text" : "password";
    reveal.setAttribute("aria-pressed", String(show));
    reveal.setAttribute("aria-label", show ? "Hide password" : "Show password");
    field.focus();
  });
}

const count = document.querySelector("[data-count]");
if (count) {
  let left = Number(count.dataset.count);
  const submit = document.querySelector("button[type=submit]");
  submit.disabled = true;
  const timer = setInterval(() => {
    left -= 1;
    count.textContent = Math.max(0, left);
    if (left > 0) return;
    clearInterval(timer);
    submit.disabled = false;
    count.closest(".callout").hidden = true;
  }, 1_000);
}
