"""The study: certified coverage before and after pruning, from a plan to a report.

    spec.py      the study file (YAML) as a checked value      plan.py      which networks, in which order
    hands.py     what the study needs from outside             build.py     train, prune, fine-tune, once each
    row.py       one result: (network, image)                  ledger.py    append-only file of results
    runner.py    verify every image, resumable                 details.py   cells and counterexamples beside the rows
    stats.py     Wilson, nested bootstrap, McNemar, Holm       summary.py   rows -> figures with intervals
    goals.py     pass or fail                                  figures/, report.py, terminal.py   what a reader sees
    tools/       result files of any verifier compared         cli.py       `secateur compare`

Nothing here computes bounds or cuts networks: that is handed in (`hands.Hands`), so the machinery can be tested alone.
"""
