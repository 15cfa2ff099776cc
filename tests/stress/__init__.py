"""Programs that run for minutes to hours; the slow tests run a short form of each. ``python -m tests.stress.kills --help``"""
