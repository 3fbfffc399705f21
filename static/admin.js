/* The admin's theme marks no main part; screen readers jump to it. */
document.addEventListener("DOMContentLoaded", () => document.getElementById("main")?.setAttribute("role", "main"));
