// Computes every cell of every layer of weighted sums again from its factors, and draws each event.
function selftest() {
  let [cells, worst] = [0, 0];
  for (const row of ROWS) {
    if (!["dense", "unembed", "scale", "bias", "fused"].includes(row.kind)) continue;
    for (const ref of row.arrays) {
      const a = ARRAYS[ref[2]];
      if (ref[0] === "dz" && row.kind === "fused") continue;
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
          if (total === undefined) continue; // the page does not hold all of its factors
          cells++;
          const off = Math.abs(total - at(a, i, j));
          if (off) worst = Math.max(worst, off / (a.max || size || 1));
          if (Number.isNaN(off) && !Number.isNaN(at(a, i, j))) worst = Infinity;
        }
      }
    }
  }
  const began = performance.now();
  for (let i = 0; i < EVENTS.length; i++) goTo(i);
  const ms = (performance.now() - began) / EVENTS.length;
  const said = find("selftest");
  said.hidden = false;
  said.textContent = `selftest: ${cells} cells computed again, worst relative difference ${worst.toExponential(2)}, ${ms.toFixed(1)} ms a step`;
  Object.assign(said.dataset, { cells, worst, ms: ms.toFixed(2) });
}

start();
