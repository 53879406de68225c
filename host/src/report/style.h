#pragma once

namespace outrider::report {

/// The page's style. Colours are tokens with a light and a dark value; the eight series colours
/// keep 3:1 contrast against both backgrounds.
inline constexpr const char* kStyle = R"css(
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1d2129;--soft:#5b6472;--rule:#dfe2e7;
--mark:#ffe9a8;--mark-ink:#3d2f00;--c0:#2563b8;--c1:#c2571a;--c2:#2f7d4f;--c3:#8e44ad;--c4:#b3261e;
--c5:#0f7f8f;--c6:#8a6d00;--c7:#6b7280}
@media(prefers-color-scheme:dark){:root{--bg:#14171c;--card:#1b1f26;--ink:#e6e9ee;--soft:#9aa4b2;
--rule:#323945;--mark:#574500;--mark-ink:#ffefc2;--c0:#6ea8ff;--c1:#f0975a;--c2:#62c48b;--c3:#c48be0;
--c4:#ff8178;--c5:#4fc3d4;--c6:#d9b83f;--c7:#a3acb9}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.25rem;max-width:78rem;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0}
h2{font-size:1.15rem;margin:2.25rem 0 .75rem}
h3{font-size:.95rem;margin:1.25rem 0 .35rem}
header p{margin:.3rem 0;color:var(--soft)}
.note,small{color:var(--soft);font-size:.85rem}
.tiles,.charts{display:grid;gap:.75rem}
.tiles{grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));margin-top:1rem}
.charts{grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
.tiles div,figure,.wide,pre,dl{background:var(--card);border:1px solid var(--rule);border-radius:8px}
.tiles div{padding:.6rem .8rem}
.tiles b{display:block;font-size:1.3rem;line-height:1.3;font-variant-numeric:tabular-nums}
.tiles span{color:var(--soft);font-size:.8rem}
figure{margin:0;padding:.8rem .8rem .6rem}
figcaption{font-weight:600}
figcaption small{display:block;font-weight:400}
.chart{display:block;width:100%;height:auto;margin-top:.3rem}
.chart text{fill:var(--soft);font-size:13px;font-variant-numeric:tabular-nums}
.x{text-anchor:middle}.y{text-anchor:end}
.grid{stroke:var(--rule);fill:none}.axis{stroke:var(--soft);fill:none}
.line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}
.held-out{stroke-dasharray:5 3}
.bar{fill:currentColor;opacity:.75}.span{stroke:var(--ink);stroke-width:1.6}
.dot{fill:currentColor}.hover{fill:transparent}.hover:hover{fill:currentColor}
.mark{fill:none;stroke:var(--ink);stroke-width:1.6}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}
.c4{color:var(--c4)}.c5{color:var(--c5)}.c6{color:var(--c6)}.c7{color:var(--c7)}
.legend{display:flex;flex-wrap:wrap;gap:.1rem .9rem;margin:.3rem 0 0;font-size:.8rem}
.legend svg{width:22px;height:8px;margin-right:.35rem;vertical-align:middle}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .8rem;text-align:right;white-space:nowrap;border-top:1px solid var(--rule)}
tr:first-child th{border-top:0}
th{font-size:.8rem;color:var(--soft);font-weight:600}
th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}
.tokens{font:.8rem/1.9 ui-monospace,monospace;margin:.25rem 0;color:var(--soft)}
.text{white-space:pre-wrap}
mark{background:var(--mark);color:var(--mark-ink);border-radius:3px;padding:.1rem .2rem;
-webkit-box-decoration-break:clone;box-decoration-break:clone}
dl{margin:0;padding:.3rem .8rem}
dl div{display:grid;grid-template-columns:minmax(9rem,15rem) 1fr;gap:.75rem;padding:.3rem 0}
dl div+div{border-top:1px solid var(--rule)}
dt{color:var(--soft)}dd{margin:0}
pre{padding:.8rem;overflow-x:auto;font-size:.8rem;margin:0}
code{font-family:ui-monospace,monospace;font-size:.85em}
@media(max-width:34rem){dl div{grid-template-columns:1fr;gap:0}}
@media print{body{max-width:none}figure{break-inside:avoid}}
)css";

}  // namespace outrider::report
