"use strict";
// The table of cases sorts and opens cases; the viewer steps through a case's slices, which sheets (case_sheets.py) hold
// side by side. Names reach the page as text alone: here they are only copied from element to element.
{
  const byId = (id) => document.getElementById(id);

  // Folded tables are open in print, and where a link leads into them.
  const folds = [...document.querySelectorAll("details")];
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = folds.filter((fold) => !fold.open);
    for (const fold of folded) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of folded) fold.open = false;
  });
  const unfoldTarget = () => {
    const fold = byId(location.hash.slice(1))?.querySelector("details");
    if (fold) fold.open = true;
  };
  addEventListener("hashchange", unfoldTarget);
  unfoldTarget();

  const table = byId("case-table");
  if (table) {
    enableSorting(table);
    enableViewer(table);
  }
  performance.mark("ready"); // for whoever measures it

  function enableSorting(table) {
    const body = table.tBodies[0];
    const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const descending = heading.getAttribute("aria-sort") === "ascending";
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
        const keyed = [...body.rows].map((row) => [sortKey(row.cells[column].textContent, column), row]);
        keyed.sort(([a], [b]) => Number.isNaN(a) - Number.isNaN(b) || compare(a, b) * (descending ? -1 : 1));
        body.append(...keyed.map(([, row]) => row));
      });
    });
  }

  function sortKey(text, column) {
    if (column === 0) return text;
    return Number(text.replace("−", "-")); // NaN of a dash, where there is no value: these rows come last
  }

  function compare(a, b) {
    if (typeof a === "string") return a.localeCompare(b, undefined, { numeric: true });
    return a - b || 0; // of two without a value
  }

  // Of a square between four voxels' centres: the middle of its sides from the first voxel's corner, and the lines for
  // the corners inside, counted from top left (1) clockwise (2, 4, 8).
  const SIDES = { t: [1, 0.5], r: [1.5, 1], b: [1, 1.5], l: [0.5, 1] };
  const LINES = ["", "lt", "tr", "lr", "rb", "lt rb", "tb", "lb", "lb", "tb", "tr lb", "rb", "lr", "tr", "lt", ""];
  const ENDINGS = { 2: "nd", 3: "rd" }; // of numbers
  // Of the reference, and of the models in turn: which of every few pieces of an outline are drawn.
  const DASHES = [[1, 1], [1, 1], [2, 4], [2, 5], [4, 6], [1, 4], [3, 5]];

  function enableViewer(table) {
    const viewer = byId("viewer");
    const panels = byId("panels");
    const slider = byId("slice");
    const regions = JSON.parse(byId("regions-data").textContent);
    const outlineBoxes = [...byId("outlines").querySelectorAll("input")];
    const regionBoxes = [...byId("regions").querySelectorAll("input")];
    const style = getComputedStyle(document.documentElement);
    // 0 is the reference, and has a style of its own
    const styleOf = (who) => (who === 0 ? 0 : 1 + ((who - 1) % (DASHES.length - 1)));
    const colourOf = (who) => style.getPropertyValue(`--outline-${styleOf(who)}`).trim();
    const parsed = new Promise((done) => addEventListener("DOMContentLoaded", done)); // sheets come last
    let row = null; // of the case that is shown
    let shown = null; // its sheets, decoded; null where it has none

    table.tBodies[0].addEventListener("click", (event) => open(event.target.closest("tr")));
    for (const button of document.querySelectorAll(".look button")) {
      button.addEventListener("click", () => {
        const marks = [...table.querySelectorAll(".mark")];
        open(marks.find((mark) => mark.textContent === button.dataset.mark).closest("tr"));
      });
    }
    byId("close").addEventListener("click", () => viewer.close());
    byId("previous-case").addEventListener("click", () => openBeside("previousElementSibling"));
    byId("next-case").addEventListener("click", () => openBeside("nextElementSibling"));
    byId("worst-slice").addEventListener("click", () => shown && show(shown.start));
    slider.addEventListener("input", draw);
    for (const box of [...outlineBoxes, ...regionBoxes]) box.addEventListener("change", draw);
    panels.addEventListener("wheel", (event) => {
      event.preventDefault();
      step(Math.sign(event.deltaY));
    });
    addEventListener("resize", draw);

    const keys = {
      ArrowRight: () => step(1),
      ArrowUp: () => step(1),
      ArrowLeft: () => step(-1),
      ArrowDown: () => step(-1),
      PageUp: () => step(10),
      PageDown: () => step(-10),
      Home: () => show(0),
      End: () => show(shown.slices - 1),
      w: () => show(shown.start),
      n: () => openBeside("nextElementSibling"),
      p: () => openBeside("previousElementSibling"),
    };
    // Not of the viewer alone: the page has the focus where what had it is hidden.
    addEventListener("keydown", (event) => {
      if (!viewer.open || event.ctrlKey || event.metaKey || event.altKey) return;
      const box = /^[0-9]$/.test(event.key) && outlineBoxes[Number(event.key)];
      if (box) box.click();
      else if (!(event.key in keys) || !(shown || "np".includes(event.key))) return;
      else keys[event.key]();
      event.preventDefault();
    });

    async function open(opened) {
      row = opened;
      shown = null;
      byId("viewer-title").replaceChildren(...row.cells[0].cloneNode(true).childNodes);
      fillNumbers();
      panels.replaceChildren(); // the former case's
      byId("place").textContent = "";
      byId("errors").width = 0;
      const isPictured = row.classList.contains("pictured");
      viewer.classList.toggle("plain", !isPictured);
      if (!viewer.open) viewer.showModal();
      if (!isPictured) return;
      const opening = row;
      await parsed;
      const data = document.querySelector(`script[data-sheets="${opening.dataset.case}"]`);
      const sheets = await decode(JSON.parse(data.textContent)).catch(() => null);
      if (row !== opening) return; // another case was opened meanwhile
      if (sheets === null) {
        panels.textContent = "The browser can't decode the slices of this case.";
        return;
      }
      shown = sheets;
      viewer.classList.toggle("flat", shown.of === 1);
      panels.replaceChildren(...shown.images.map(makePanel));
      slider.max = shown.slices - 1;
      slider.focus();
      show(shown.start);
    }

    function openBeside(sibling) {
      if (row[sibling]) open(row[sibling]);
    }

    async function decode(sheets) {
      const load = async (source) => {
        const image = new Image();
        image.src = source;
        await image.decode();
        return image;
      };
      const images = sheets.images.length ? sheets.images : [{ name: "no image" }];
      return {
        ...sheets,
        images: await Promise.all(
          images.map(async ({ name, sheet }) => ({ name, picture: sheet ? await load(sheet) : null })),
        ),
        labels: await Promise.all(sheets.labels.map(load)),
      };
    }

    function makePanel({ name }) {
      const panel = document.createElement("figure");
      const caption = document.createElement("figcaption");
      caption.textContent = name;
      panel.append(document.createElement("canvas"), caption);
      return panel;
    }

    // A line for each model, a column for each region, as the case's row has them.
    function fillNumbers() {
      const [groups, names] = [...table.tHead.rows].map((line) => [...line.cells].map((cell) => cell.textContent));
      const titles = groups.slice(1);
      const perGroup = (names.length - 1) / titles.length;
      const lines = [["", ...titles]];
      for (let place = 1; place <= perGroup; place++) {
        const values = titles.map((_, group) => row.cells[place + group * perGroup].textContent);
        lines.push([names[place], ...values]);
      }
      const transposed = lines[0].map((_, column) => lines.map((line) => line[column]));
      byId("numbers").tBodies[0].replaceChildren(
        ...transposed.map((cells, number) => {
          const line = document.createElement("tr");
          cells.forEach((text, column) => {
            const cell = document.createElement(number === 0 || column === 0 ? "th" : "td");
            cell.textContent = text;
            line.append(cell);
          });
          return line;
        }),
      );
    }

    function step(by) {
      if (shown) show(Math.min(Math.max(Number(slider.value) + by, 0), shown.slices - 1));
    }

    function show(slice) {
      slider.value = slice;
      draw();
    }

    function draw() {
      if (shown === null) return;
      const slice = Number(slider.value);
      const { first, of, step } = shown;
      const place = of > 1 ? [`slice ${first + slice} of ${of}`] : [];
      if (step > 1) place.push(`every ${step}${ENDINGS[step] ?? "th"} voxel`);
      byId("place").textContent = place.join(", ");
      const paths = outlinesOf(slice);
      const [across, down, columns] = scales();
      panels.style.gridTemplateColumns = `repeat(${columns}, max-content)`;
      shown.images.forEach(({ picture }, index) => {
        const canvas = panels.children[index].firstChild;
        const density = devicePixelRatio;
        canvas.width = Math.round(shown.width * across * density);
        canvas.height = Math.round(shown.height * down * density);
        canvas.style.width = `${shown.width * across}px`;
        canvas.style.height = `${shown.height * down}px`;
        const context = canvas.getContext("2d");
        context.imageSmoothingQuality = "high";
        if (picture) context.drawImage(picture, ...partOf(slice), 0, 0, canvas.width, canvas.height);
        const scaling = new DOMMatrix([across * density, 0, 0, down * density, 0, 0]);
        for (const { path, who } of paths) {
          const scaled = new Path2D();
          scaled.addPath(path, scaling);
          const width = (who === 0 ? 2.5 : 1.75) * density;
          for (const [colour, added] of [["#000000", 1.5 * density], [colourOf(who), 0]]) {
            context.strokeStyle = colour;
            context.lineWidth = width + added;
            context.lineCap = "round";
            context.stroke(scaled);
          }
        }
      });
      drawErrors(slice);
    }

    // Pixels for a voxel, across and down, and columns of panels: as large as there is room for.
    function scales() {
      const gap = 4;
      let best = [0, 0, 1];
      for (let columns = 1; columns <= shown.images.length; columns++) {
        const rows = Math.ceil(shown.images.length / columns);
        const across = (panels.clientWidth - gap * (columns - 1)) / columns / shown.width;
        const down = (panels.clientHeight - gap * (rows - 1)) / rows / (shown.height * shown.aspect);
        const scale = Math.min(across, down);
        if (scale > best[0]) best = [scale, scale * shown.aspect, columns];
      }
      return best;
    }

    // Where a slice is in a sheet: left, top, width, height.
    function partOf(slice) {
      const { width, height, columns } = shown;
      return [(slice % columns) * width, Math.floor(slice / columns) * height, width, height];
    }

    // Of the reference (who = 0) and of each model, around each region that is switched on.
    function outlinesOf(slice) {
      const outlines = [];
      shown.labels.forEach((sheet, who) => {
        if (!outlineBoxes[who].checked) return;
        const labels = labelsIn(sheet, slice);
        regions.forEach((ofRegion, index) => {
          if (regionBoxes[index].checked) outlines.push({ who, path: outline(labels, new Set(ofRegion), dashOf(who)) });
        });
      });
      return outlines;
    }

    function labelsIn(sheet, slice) {
      const canvas = new OffscreenCanvas(shown.width, shown.height);
      const context = canvas.getContext("2d");
      context.drawImage(sheet, ...partOf(slice), 0, 0, shown.width, shown.height);
      const colours = context.getImageData(0, 0, shown.width, shown.height).data;
      return Uint16Array.from({ length: colours.length / 4 }, (_, place) => colours[4 * place] + 256 * colours[4 * place + 1]);
    }

    function dashOf(who) {
      const [drawn, period] = DASHES[styleOf(who)];
      return (x, y) => (x + 2 * y + 3) % period < drawn; // pieces follow each other in every direction
    }

    // Marching squares: lines between the voxels' centres, where one is inside and the next one is not.
    function outline(labels, region, isDrawn) {
      const width = shown.width + 2; // with a border, which is outside
      const inside = new Uint8Array(width * (shown.height + 2));
      labels.forEach((label, place) => {
        const line = Math.floor(place / shown.width);
        if (region.has(label)) inside[(line + 1) * width + (place % shown.width) + 1] = 1;
      });
      const path = new Path2D();
      for (let y = -1; y < shown.height; y++) {
        for (let x = -1; x < shown.width; x++) {
          const first = (y + 1) * width + x + 1;
          const below = first + width;
          const lines = LINES[inside[first] + 2 * inside[first + 1] + 4 * inside[below + 1] + 8 * inside[below]];
          if (!lines || !isDrawn(x, y)) continue;
          for (const [start, end] of lines.split(" ")) {
            path.moveTo(x + SIDES[start][0], y + SIDES[start][1]);
            path.lineTo(x + SIDES[end][0], y + SIDES[end][1]);
          }
        }
      }
      return path;
    }

    function drawErrors(slice) {
      const canvas = byId("errors");
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      canvas.width = width * devicePixelRatio;
      canvas.height = height * devicePixelRatio;
      const context = canvas.getContext("2d");
      context.scale(devicePixelRatio, devicePixelRatio);
      const most = Math.max(1, ...shown.errors.flat());
      const inset = 8; // half of the slider's thumb
      const across = (place) => inset + (place / Math.max(1, shown.slices - 1)) * (width - 2 * inset);
      context.fillStyle = "#555555";
      context.fillRect(across(slice) - 1, 0, 2, height);
      shown.errors.forEach((ofModel, model) => {
        context.strokeStyle = colourOf(1 + model);
        context.lineWidth = 1.5;
        context.setLineDash(model === 0 ? [] : [5, 3]);
        context.beginPath();
        ofModel.forEach((count, place) => context.lineTo(across(place), height - 3 - (count / most) * (height - 6)));
        context.stroke();
      });
    }
  }
}
