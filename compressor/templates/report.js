"use strict";
// Sorting and plots. The page is complete without this script, except for them.
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // ---- tables: a click on a heading sorts, a second one turns the order around; empty cells stay at the end

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return cell.dataset.value === "" ? null : Number(cell.dataset.value);
    return cell.textContent.trim().toLowerCase();
  };

  function sortBy(table, heading, column) {
    const numbers = heading.classList.contains("n");
    const now = heading.getAttribute("aria-sort");
    // numbers start with the largest, names with a
    const order = now ? (now === "ascending" ? "descending" : "ascending") : numbers ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return sign * (typeof a.key === "number" ? a.key - b.key : a.key.localeCompare(b.key, undefined, { numeric: true }));
    };
    for (const body of table.tBodies) { // one per student and device
      const rows = Array.from(body.rows).filter((row) => !row.classList.contains("group"));
      const keyed = rows.map((row) => ({ row, key: keyOf(row, column) })).sort(compare);
      body.append(...keyed.map((item) => item.row));
    }
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortBy(table, heading, column));
      heading.append(button);
    });
  }

  // ---- plots

  const source = document.getElementById("figures");
  if (!source) return;
  const figures = JSON.parse(source.textContent);
  const nonce = document.currentScript.nonce;
  const places = Array.from(document.querySelectorAll(".plot"));

  // Replace "var(--name)" by what it is in the scheme of now; plotly draws SVG attributes, which know no variables.
  function resolved(value, style) {
    if (typeof value === "string") {
      const found = /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return found ? style.getPropertyValue(found[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => resolved(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, resolved(item, style)]));
    }
    return value;
  }

  const choice = () => document.querySelector("input[name=cost-axis]:checked")?.value ?? "";

  function draw(place) {
    const variants = figures[place.id];
    const key = "" in variants ? "" : choice();
    const figure = variants[key];
    const canvas = place.querySelector(".canvas");
    const standIn = place.querySelector(".stand-in");
    standIn.hidden = Boolean(figure);
    if (!figure) {
      Plotly.purge(canvas);
      standIn.textContent = place.dataset.missing;
      return;
    }
    const { data, layout } = resolved(figure, getComputedStyle(root));
    const font = getComputedStyle(document.body).fontFamily;
    layout.font = { ...layout.font, family: font };
    Plotly.react(canvas, data, layout, { responsive: true, displayModeBar: false });
  }

  const drawAll = () => places.forEach(draw);

  async function library() {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.nonce = nonce;
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  library().then(() => {
    drawAll();
    for (const input of document.querySelectorAll("input[name=cost-axis]")) input.addEventListener("change", drawAll);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    // paper is white
    addEventListener("beforeprint", () => { root.dataset.print = ""; drawAll(); });
    addEventListener("afterprint", () => { delete root.dataset.print; drawAll(); });
    root.dataset.plots = "drawn";
  }).catch((error) => {
    for (const place of places) place.querySelector(".stand-in").textContent = "This browser cannot draw the plot; its numbers are in the tables.";
    console.error(error);
    root.dataset.plots = "failed";
  });
})();
