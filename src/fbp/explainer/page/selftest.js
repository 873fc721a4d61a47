// Computes every cell that the page writes out again from its factors, and draws each event.
function selftest() {
  const kinds = {};
  const add = (kind, [cells, worst]) => {
    const all = (kinds[kind] = kinds[kind] || { cells: 0, worst: 0 });
    all.cells += cells;
    all.worst = Math.max(all.worst, worst);
  };
  for (const row of ROWS) {
    for (const ref of MAKERS[row.kind] ? row.arrays : []) if (ref[1] !== "update") add(row.kind, computedAgain(row, ref));
    if (DATA.update) add("update", updatesComputedAgain(row));
  }
  const began = performance.now();
  for (let i = 0; i < EVENTS.length; i++) goTo(i);
  const ms = (performance.now() - began) / EVENTS.length;
  const found = Object.values(kinds);
  const cells = found.reduce((sum, each) => sum + each.cells, 0);
  const worst = Math.max(0, ...found.map((each) => each.worst));
  const said = find("selftest");
  said.hidden = false;
  said.textContent = `selftest: ${cells} cells computed again, worst relative difference ${worst.toExponential(2)}, ${ms.toFixed(1)} ms a step`;
  Object.assign(said.dataset, { cells, worst, ms: ms.toFixed(2), kinds: JSON.stringify(kinds) });
}

// How many cells of an array have all their factors here, and the largest difference to its scale.
function computedAgain(row, ref) {
  const a = ARRAYS[ref[2]];
  let [cells, worst] = [0, 0];
  for (let i = 0; i < a.r; i++) {
    for (let j = 0; j < a.c; j++) {
      const made = MAKERS[row.kind](row, ref[0], i * a.C + j);
      if (!made) continue;
      let [total, size] = [0, 0];
      for (let n = 0; n < made.count && total !== undefined; n++) {
        const [factors] = made.term(n);
        if (factors.includes(undefined)) { total = undefined; break; }
        const product = factors.reduce((p, f) => p * f, 1);
        total += product;
        size = Math.max(size, Math.abs(product));
      }
      if (total === undefined) continue;
      cells++;
      if (Object.is(total, at(a, i, j))) continue;
      const off = Math.abs(total - at(a, i, j));
      // Beside its array, or its own terms, which may cancel: gradients that are 0 but for rounding.
      if (off) worst = Math.max(worst, off / (Math.max(a.max, size) || 1));
      if (Number.isNaN(off) && !Number.isNaN(at(a, i, j))) worst = Infinity;
    }
  }
  return [cells, worst];
}

start();
