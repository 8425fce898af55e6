"""Who is timed: each module has ``CONTENDERS``, {name: function of a Case that returns a runner}.

A runner takes a number of steps (or images) and returns when they are done.
"""
