#!/usr/bin/env bash
# diffusers 0.42.1: DDIMScheduler (and others) with timestep_spacing "trailing" give 62 timesteps for 61 steps, the last
# of which is -1: np.arange(1000, 0, -1000/61) ends at 2.3e-13, which rounds to 0, and 1 is taken off.  alphas_cumprod[-1]
# is then that of pure noise, and the picture is ruined.  Where the count does not divide 1000, DDIMScheduler.step also
# takes every step to be 1000 // count long, which is not the distance to the next timestep.
# Exits with 0 while both are so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "diffusers==0.42.1" "torch==2.11.0" numpy >/dev/null
"$work/env/bin/python" - <<'PYTHON'
import diffusers
from diffusers import DDIMScheduler

scheduler = DDIMScheduler(timestep_spacing="trailing")
wrong = []
for count in range(1, 101):
    scheduler.set_timesteps(count)
    steps = scheduler.timesteps.tolist()
    if len(steps) != count or min(steps) < 0:
        wrong.append((count, len(steps), steps[-1]))
print("diffusers", diffusers.__version__, "steps asked for, given, the last:", wrong)
scheduler.set_timesteps(62)
uneven = {a - b for a, b in zip(scheduler.timesteps.tolist(), scheduler.timesteps.tolist()[1:])}
print("62 steps: distances", uneven, "while step() goes", 1000 // 62, "at a time")
raise SystemExit(0 if wrong == [(61, 62, -1)] and uneven != {1000 // 62} else 1)
PYTHON
