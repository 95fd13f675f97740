"""The page around the sections, and its style for light, dark and paper."""

from __future__ import annotations

from collections.abc import Mapping

from voxfit.assessment.report.markup import (
    Markup,
    element,
    paragraph,
)
from voxfit.core.version import VERSION

_META = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --line: #d5dae0;
  --tint: #f5f7f9;  --mark: #9a6700; --notice: #fff8e1; --best: #e3f2e6;
  --c0: #0072b2; --c1: #c8500a; --c2: #00845f; --c3: #b05088; --c4: #8a6d00; --c5: #3b8fc4; --c6: #7350b0;
  --c7: #5f6770; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a3abb5; --paper: #14171b;
  --line: #3a4149; --tint: #1c2126; --mark: #e3b341; --notice: #2b2515; --best: #173323;
  --c0: #58b4f0; --c1: #ff9457; --c2: #3fcf9f; --c3: #ea92c5; --c4: #e0c03f; --c5: #9ad2f5; --c6: #bda2f5;
  --c7: #b4bcc6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial,
  sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 12px; }
h2 { font-size: 20px; margin: 40px 0 10px; padding-top: 10px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 22px 0 6px; }
p, li { max-width: 78ch; }
a { color: var(--c0); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 14px; }
small, figcaption, .legend, footer { color: var(--soft); font-size: 13px; }
figcaption strong { color: var(--ink); font-size: 14px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 10px; margin: 16px 0; }
.cards div { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; }
.cards dt { color: var(--soft); font-size: 13px; }
.cards dd { margin: 0; font-size: 23px; font-weight: 600; font-variant-numeric: tabular-nums; }
.notice { background: var(--notice); border-left: 4px solid var(--mark); padding: 10px 14px; margin: 12px 0; }
.notice ul { margin: 6px 0 0; padding-left: 20px; }
.table { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 6px; }
th, td { padding: 4px 12px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
th[scope="row"] { font-weight: 500; }
th[scope="colgroup"] { text-align: center; border-left: 1px solid var(--line); color: var(--ink); }
.numbers td, .numbers thead th + th { text-align: right; }
.numbers thead th[scope="colgroup"] { text-align: center; }
.numbers tr:has(td strong) > * { background: var(--best); }
.plan td:nth-of-type(1) { white-space: nowrap; }
.long th, .long td { padding: 3px 7px; }
.long tbody th { white-space: nowrap; }
.strips th, .strips td { vertical-align: middle; }
.strips td:nth-child(2), .strips thead th:nth-child(2) { padding: 2px 0; text-align: center; }
.strips small { display: block; }
.strips tr:last-child > * { border-bottom: 0; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; }
figure { margin: 0; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(500px, 100%), 1fr)); gap: 22px 20px; }
.pair { display: flex; flex-wrap: wrap; gap: 0 40px; }
.views { display: flex; flex-wrap: wrap; gap: 10px; align-items: flex-start; margin-top: 6px; }
svg { display: block; max-width: 100%; height: auto; }
svg text { font: 11px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--soft); }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; } svg .name { fill: var(--ink); }
.strip { width: 440px; max-width: none; }
.chart { width: 100%; }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); fill: none; }
.equal { stroke: var(--soft); stroke-dasharray: 4 4; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
.line { stroke: var(--c); stroke-width: 1.4; fill: none; stroke-linecap: round; stroke-linejoin: round; }
.dashed { stroke-dasharray: 5 4; }
.dot { fill: var(--c); fill-opacity: 0.65; }
.box { fill: var(--c); fill-opacity: 0.16; stroke: var(--c); }
.median { stroke: var(--ink); stroke-width: 2.5; }
.view { background: #000; }
.view .reference, .view .predicted { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke; }
.view .reference { stroke: #4cc9f0; stroke-width: 2; } .view .predicted { stroke: #ffb000; stroke-dasharray: 5 3; }
.view .frame { fill: none; stroke: #fff; stroke-dasharray: 2 3; }
.view text { fill: #fff; paint-order: stroke; stroke: #000; stroke-width: 2.5px; }
.edges text { text-anchor: middle; }
.scale path { stroke: #fff; stroke-width: 2.5; }
.key { display: inline-block; width: 22px; height: 0; border-top: 3px solid var(--c); vertical-align: middle;
  margin-right: 6px; }
.key.reference { --c: #1aa3d0; } .key.predicted { --c: #e09a00; border-top-style: dashed; }
.entry { margin-right: 16px; white-space: nowrap; }
@media print { :root { color-scheme: light; } body { zoom: 0.7; } nav { display: none; }
  main { max-width: none; padding: 0; } .table { overflow: visible; } h2, h3, caption { break-after: avoid; }
  figure, .notice, tr, .table:not(.long) { break-inside: avoid; }
  .cards div, .notice, .view, .numbers tr:has(td strong) > * { print-color-adjust: exact; } }
"""


def make_page(dataset: str, sections: Mapping[str, Markup]) -> str:
    """The whole page: its title, and its sections by heading."""
    links = (element("a", title, href=f"#section-{number}") for number, title in enumerate(sections))
    body = (
        element("section", element("h2", title), content, id=f"section-{number}")
        for number, (title, content) in enumerate(sections.items())
    )
    title = f"{dataset}: segmentation report"
    head = element("head", Markup(_META), element("title", title), element("style", Markup(_STYLE)))
    footer = element("footer", paragraph(f"Made by voxfit {VERSION}. This page loads nothing from elsewhere."))
    main = element("main", element("h1", title), element("nav", *links, aria_label="Sections"), *body, footer)
    return "<!DOCTYPE html>\n" + element("html", head, element("body", main), lang="en") + "\n"
