// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Zooms timelines and names their marks. The page says the same without it, for the part that is shown at first.
(() => {
  'use strict';
  const NS = 'http://www.w3.org/2000/svg';
  const LEAST = { request: 3, answer: 3, point: 6, finding: 6 };

  // Width of a text, also of one that is not displayed.
  const paper = document.createElement('canvas').getContext('2d');
  function measure(text) {
    paper.font = getComputedStyle(text).font;
    return paper.measureText(text.textContent).width;
  }

  // Round numbers on the axis, as many as there is room for.
  function ticks(svg, a, b, width, height) {
    const group = svg.querySelector('.ticks');
    const most = Math.max(2, Math.floor(width / 110));
    let step = 1;
    const factors = [2, 2.5, 2];
    for (let n = 0; (b - a) / step > most; n++) step *= factors[n % 3];
    const digits = step >= 1000 ? 0 : step >= 100 ? 1 : step >= 10 ? 2 : 3;
    group.replaceChildren();
    // Counted, since times that are too large for a number to be exact do not move on.
    for (let n = 0, t = Math.ceil(a / step) * step; t <= b && n < 60; n++, t += step) {
      const x = (t - a) / (b - a) * width;
      const line = document.createElementNS(NS, 'line');
      for (const [name, value] of [['x1', x], ['x2', x], ['y1', 16], ['y2', height]]) line.setAttribute(name, value);
      group.append(line);
      if (x < 34 || x > width - 34) continue;
      const text = document.createElementNS(NS, 'text');
      text.setAttribute('x', x);
      text.setAttribute('y', 12);
      text.textContent = (t < 0 ? '' : '+') + (t / 1000).toFixed(digits) + ' ms';
      group.append(text);
    }
  }

  function setup(figure) {
    const svg = figure.querySelector('svg.main');
    const win = figure.querySelector('rect.win');
    const read = figure.querySelector('.read');
    const height = svg.height.baseVal.value;
    const from = +svg.dataset.from, to = Math.max(+svg.dataset.to, from + 1);
    const focus = [+svg.dataset.a, +svg.dataset.b];
    let [a, b] = focus;
    let width = 0;
    let on = -1;
    const marks = [...svg.querySelectorAll('g.m')].map((g) => {
      const rect = g.querySelector('rect'), text = g.querySelector('text');
      const kind = g.classList[1];
      const row = g.parentNode.querySelector('.title').textContent + rect.getAttribute('y');
      return { g, rect, text, row, a: +g.dataset.a, b: +g.dataset.b, least: LEAST[kind] || 2,
        tip: g.querySelector('title').textContent, needed: text ? measure(text) + 8 : 0 };
    });

    // As drawing.rs does it.
    function lay() {
      if (!width) return;
      svg.setAttribute('width', width);
      svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
      const x = (t) => Math.min(Math.max((t - a) / (b - a) * width, -20), width + 20);
      let row = null, used = 0;
      marks.forEach((m, n) => {
        if (m.row !== row) [row, used] = [m.row, 0];
        const left = x(m.a), wide = Math.max(x(m.b) - left, m.least);
        m.rect.setAttribute('x', left);
        m.rect.setAttribute('width', wide);
        const l = Math.max(left, 0), r = Math.min(left + wide, width);
        m.seen = m.b >= a && m.a <= b;
        m.g.classList.toggle('off', !m.seen);
        const next = marks[n + 1];
        const free = next && next.row === m.row ? x(next.a) : width;
        const at = r - l >= m.needed ? l + 4 : free - r >= m.needed ? r + 4
          : l - used >= m.needed ? l - 4 : null;
        const labelled = m.text && m.seen && at !== null;
        const ends = labelled && at < l;
        used = Math.max(used, r, labelled && !ends ? at + m.needed : 0);
        if (!m.text) return;
        m.text.classList.toggle('off', !labelled);
        if (!labelled) return;
        m.text.setAttribute('x', at);
        m.text.setAttribute('text-anchor', ends ? 'end' : 'start');
      });
      ticks(svg, a, b, width, height);
      win.setAttribute('x', (a - from) / (to - from) * 1000);
      win.setAttribute('width', Math.max((b - a) / (to - from) * 1000, 2));
    }

    function show(c, d) {
      const span = Math.min(Math.max(d - c, 20), to - from);
      a = Math.min(Math.max(c, from), to - span);
      b = a + span;
      lay();
    }
    const zoom = (factor, share = 0.5) => {
      const at = a + (b - a) * share;
      show(at - (at - a) * factor, at + (b - at) * factor);
    };
    const pan = (share) => show(a + (b - a) * share, b + (b - a) * share);

    function name(n) {
      if (on >= 0) marks[on].g.classList.remove('on');
      on = n;
      if (n < 0) return;
      marks[n].g.classList.add('on');
      read.textContent = marks[n].tip;
    }
    function step(by) {
      for (let n = on + by; n >= 0 && n < marks.length; n += by) {
        if (marks[n].seen) return name(n);
      }
    }

    const bar = figure.querySelector('.bar');
    const button = (label, title, act) => {
      const made = document.createElement('button');
      made.type = 'button';
      made.textContent = label;
      made.title = title;
      made.setAttribute('aria-label', title);
      made.addEventListener('click', act);
      bar.append(made);
    };
    button('+', 'zoom in (key +)', () => zoom(0.5));
    button('\u2212', 'zoom out (key -)', () => zoom(2));
    button('\u2190', 'earlier (left arrow)', () => pan(-0.3));
    button('\u2192', 'later (right arrow)', () => pan(0.3));
    button('whole round', 'whole round (key 0)', () => show(from, to));
    button('where it happens', 'where it happens (key f)', () => show(...focus));

    const keys = {
      '+': () => zoom(0.5), '=': () => zoom(0.5), '-': () => zoom(2), ArrowLeft: () => pan(-0.2),
      ArrowRight: () => pan(0.2), 0: () => show(from, to), f: () => show(...focus), n: () => step(1), p: () => step(-1),
    };
    svg.addEventListener('keydown', (event) => {
      const act = event.ctrlKey || event.metaKey || event.altKey ? null : keys[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
    svg.addEventListener('wheel', (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 0.8 : 1.25, event.offsetX / width);
    }, { passive: false });
    svg.addEventListener('pointerover', (event) => {
      const g = event.target.closest('g.m');
      if (g) name(marks.findIndex((m) => m.g === g));
    });
    let drag = null;
    svg.addEventListener('pointerdown', (event) => {
      drag = { x: event.clientX, a, b };
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener('pointermove', (event) => {
      if (!drag) return;
      const by = (drag.x - event.clientX) / width * (drag.b - drag.a);
      if (Math.abs(drag.x - event.clientX) > 3) show(drag.a + by, drag.b + by);
    });
    for (const end of ['pointerup', 'pointercancel']) svg.addEventListener(end, () => { drag = null; });
    const hint = 'Point at a mark, or press n and p, to read what it is. Drag, use the buttons, the arrow keys, + and -, or Ctrl and the wheel to zoom.';
    read.textContent += ' ' + hint;

    const place = figure.querySelector('.scroll');
    new ResizeObserver(() => {
      const now = Math.floor(place.clientWidth) - 2;
      if (now <= 0 || now === width) return;
      width = now;
      lay();
    }).observe(place);
  }

  document.documentElement.classList.add('js');
  document.querySelectorAll('figure.tl').forEach(setup);
})();
