#!/usr/bin/env bash
# schedulefree 1.4.1: optimizer.eval() followed by optimizer.train() does not bring the weights back as they were: each
# is an interpolation in float32 that rounds.  A training that looks at its mean (to save, measure or draw) then goes on
# from other weights than one that does not look, and a run that is stopped and resumed does not end in the same bits.
# Exits with 0 while that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "schedulefree==1.4.1" "torch==2.11.0" numpy >/dev/null
"$work/env/bin/python" - <<'PYTHON'
import schedulefree
import torch


def train(looks: bool) -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = schedulefree.AdamWScheduleFree([weight], lr=1e-3)
    optimizer.train()
    for step in range(100):
        (weight @ torch.randn(64, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if looks and step % 10 == 9:
            optimizer.eval()
            optimizer.train()
    return weight.detach()


apart = (train(False) - train(True)).abs()
print(f"schedulefree 1.4.1: {int((apart > 0).sum())} of {apart.numel()} weights differ, by {apart.max().item():.1e} at most")
raise SystemExit(0 if apart.max() > 0 else 1)
PYTHON
