"""Benchmarks: what the figures in docs/performance.md come from.

Each script is one question. Run it from the root of the checkout, in an environment with the extra
``test``, as ``python -m benchmarks.restore``; ``--help`` shows its options. It prints Markdown.
DSLR is measured too where it is installed (``pip install dslr``).
"""
