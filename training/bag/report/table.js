// Tables that sort by a click on a heading, and a field that hides rows.
function cellValue(row, column, isText) {
  const cell = row.cells[column];
  if (isText) return cell.textContent.trim();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function sortTable(table, column, ascending) {
  const isText = table.tHead.rows[0].cells[column].dataset.kind === "text";
  const body = table.tBodies[0];
  const sign = ascending ? 1 : -1;
  const rows = [...body.rows].map((row) => [cellValue(row, column, isText), row]);
  rows.sort(([one], [two]) => {
    // What has no value comes last, whichever way.
    if (one === null || two === null) return (one === null) - (two === null);
    return sign * (isText ? one.localeCompare(two, undefined, { numeric: true }) : one - two);
  });
  body.append(...rows.map(([, row]) => row));
  for (const heading of table.tHead.rows[0].cells) heading.setAttribute("aria-sort", "none");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      sortTable(table, column, now === "none" ? heading.dataset.kind === "text" : now === "descending");
    });
  });
}

function makeFilter(field) {
  const rows = [...document.getElementById(field.dataset.table).tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const count = document.getElementById("filter-count");
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    rows.forEach((row, place) => { row.hidden = !texts[place].includes(wanted); });
    count.textContent = wanted ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
  });
}
