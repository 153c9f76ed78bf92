"""Train the demo's LoRA adapter on the preference pairs with SimPO (Meng, Xia and Chen, 2024).

A margin can also grow by making both answers unlikely, and a model this small then loses its
language; so the chosen answers' mean log-probability is added to the objective, as CPO-SimPO does.
The same command, issued again after an interruption, goes on from the last checkpoint.

    python train.py --model path/to/SmolLM2-135M-Instruct --out runs/seed1 --seed 1
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tuning.training import parse_config, train

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    description = (__doc__ or "").splitlines()[0]
    train(parse_config(description, pairs=Path(__file__).with_name("pairs.jsonl")))
