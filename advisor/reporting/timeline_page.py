"""The fixed parts of the timeline's page: layout, colours, and the script behind the pointer."""

from __future__ import annotations

from string import Template

STYLE = """
:root{--bg:#fff;--fg:#1c2126;--dim:#667079;--line:#e3e7ea;--card:#f6f8f9;
--weights:#8c9aa6;--states:#c9a14a;--gradients:#b5654f;--activations:#3b82a0;--temporaries:#7d6bb0;--peak:#c2262e}
@media(prefers-color-scheme:dark){:root{--bg:#14181b;--fg:#e4e8ea;--dim:#98a3ab;--line:#2a3136;--card:#1b2125;
--weights:#5f6d78;--states:#a98535;--gradients:#b0634e;--activations:#3f8fae;--temporaries:#8a79bd;--peak:#ff6b6b}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 20px 48px}h1{font-size:22px;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:15px;margin:0 0 8px}p{margin:4px 0}.dim{color:var(--dim)}.sentence{font-weight:600;margin:12px 0}
figure{margin:16px 0;position:relative}svg{width:100%;height:auto;display:block;touch-action:none}
.grid{stroke:var(--line)}.border{stroke:var(--dim);stroke-dasharray:3 4;opacity:.6}.cursor{stroke:var(--fg);opacity:.5}
.tick,.phase{fill:var(--dim);font-size:12px}.peak{fill:none;stroke:var(--peak);stroke-width:2.5}
.peak-label{fill:var(--peak);font-size:13px;font-weight:600}
.k-weights{fill:var(--weights);background:var(--weights)}.k-states{fill:var(--states);background:var(--states)}
.k-gradients{fill:var(--gradients);background:var(--gradients)}
.k-activations{fill:var(--activations);background:var(--activations)}
.k-temporaries{fill:var(--temporaries);background:var(--temporaries)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--dim);font-size:13px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}
#tip{position:absolute;pointer-events:none;background:var(--card);border:1px solid var(--line);border-radius:6px;
padding:8px 10px;font-size:12.5px;max-width:340px;overflow-wrap:anywhere;display:none}#tip b{display:block}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:16px}
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px;overflow-x:auto}
.wide{margin-top:16px}table{border-collapse:collapse;width:100%;font-size:13px}
td,th{padding:3px 10px 3px 0;text-align:left;vertical-align:top}th{color:var(--dim);font-weight:500}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}.path{overflow-wrap:anywhere}
.bar{width:34%}.bar i{display:block;height:10px;margin-top:5px;border-radius:2px;background:var(--activations)}
@media(max-width:520px){.columns{grid-template-columns:1fr}}
"""

SCRIPT = """
const data=JSON.parse(document.getElementById('data').textContent);
const [svg,tip,cursor]=['picture','tip','cursor'].map(name=>document.getElementById(name));
const unit=n=>{for(const [s,u] of [[2**30,'GiB'],[2**20,'MiB'],[2**10,'KiB']])if(n>=s)
return(n/s).toFixed(n/s<10?2:1)+' '+u;return n+' B'};
function show(event){const point=svg.createSVGPoint();point.x=event.clientX;point.y=event.clientY;
const x=point.matrixTransform(svg.getScreenCTM().inverse()).x,last=data.live.length-1;
const i=Math.max(0,Math.min(last,Math.round(x/1000*last))),row=data.live[i];
cursor.setAttribute('x1',1000*i/Math.max(1,last));cursor.setAttribute('x2',1000*i/Math.max(1,last));
tip.textContent='';const head=document.createElement('b');
head.textContent=unit(row.reduce((a,b)=>a+b,0))+' · '+data.phases[i].replace('_',' ');tip.append(head);
data.kinds.forEach((kind,k)=>{if(row[k]){const line=document.createElement('div');
line.textContent=kind+' '+unit(row[k]);tip.append(line)}});
const place=document.createElement('div');place.className='dim';place.textContent=data.places[i];tip.append(place);
tip.style.display='block';const box=svg.parentNode.getBoundingClientRect();
const left=event.clientX-box.left;tip.style.left=Math.min(left+14,box.width-tip.offsetWidth-4)+'px';
tip.style.top=Math.max(4,event.clientY-box.top-tip.offsetHeight-10)+'px'}
svg.addEventListener('pointermove',show);svg.addEventListener('pointerleave',()=>{tip.style.display='none';
cursor.setAttribute('x1',-9);cursor.setAttribute('x2',-9)});
"""

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title><style>$style</style></head><body><main>
<h1>$title</h1><p>$summary</p><p class="sentence">$sentence</p>
<figure><div class="legend">$legend</div>$picture<div id="tip" role="status"></div></figure>
<p class="dim">Live tensor bytes over one training step, in the order of allocations (not by time); each point is a
local maximum. Predicted without running the step; library workspaces and the memory of the process come on top.</p>
<div class="columns">$tables</div>$tensors$choices
<p class="dim">finetune-advisor $version</p>
</main><script type="application/json" id="data">$data</script><script>$script</script></body></html>
""")
