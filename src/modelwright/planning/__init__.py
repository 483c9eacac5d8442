"""What a training or a model will need, before it is paid for: memory, time, money, energy.

Formulae on paper, each beside its source, and tables of machines, shapes and prices as YAML. `shape` says
what a network is, `activations` and `memory` what a training step holds, `serving` and `tuning` what it
takes to run or to fine-tune a model, `duration` how long, `pieces` and `exchange` what each of several
devices has and sends, `sharding` the same for a stock training, `remedies` what would make it fit. `machines`
has a table, and a probe that measures this machine.
"""
