"""Who is timed: each module has ``CONTENDERS``, {name: function of a Case that returns a runner}.

A runner takes a number of steps and returns when they are done. A step is a training step unless
its function says otherwise.
"""
