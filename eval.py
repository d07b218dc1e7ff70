"""Measures networks, or bicubic alone, on benchmark folders by the paper's protocol.

python eval.py --workdir=runs/student --benchmarks=data/Set5,data/Set14
python eval.py --method=bicubic --benchmarks=data/Set5 --report=results/bicubic

The flags and what they do: lightbsr_jax/commands/evaluate.py, where `lightbsr eval` has
them from too.
"""

from lightbsr_jax.commands import evaluate

if __name__ == "__main__":
    evaluate.main()
