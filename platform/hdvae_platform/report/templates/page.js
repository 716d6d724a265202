"use strict";
// Sort a table by the column whose name is clicked; a second click reverses the order.
function key(row, column) {
  const cell = row.cells[column];
  const number = cell.dataset.key;
  return number === undefined ? cell.textContent.trim() : Number(number.replace("inf", "Infinity"));
}
function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? (a === b ? 0 : a < b ? -1 : 1) : String(a).localeCompare(String(b));
}
function sort(head) {
  const table = head.closest("table");
  const body = table.tBodies[0];
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const rows = Array.from(body.rows, (row) => [key(row, head.cellIndex), row]);
  rows.sort((a, b) => (ascending ? 1 : -1) * compare(a[0], b[0]));
  body.append(...rows.map((pair) => pair[1]));
}
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}
// Say where a table is wider than its place on the screen.
function hint() {
  for (const one of document.querySelectorAll(".scroll")) one.previousElementSibling.hidden = one.scrollWidth <= one.clientWidth;
}
addEventListener("resize", hint);
document.addEventListener("toggle", hint, true);
hint();
// Open all details for printing.
let opened = [];
addEventListener("beforeprint", () => {
  opened = Array.from(document.querySelectorAll("details:not([open])"));
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
