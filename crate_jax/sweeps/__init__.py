"""A question as a file: many runs that differ in some leaves, run or emitted, and compared.

points    what a sweep file says: a name and overrides for each point
run       the points on this machine, some at once, resumable
emit      the points as a SLURM array, a JobSet, or TPU-VM commands
compare   one table and one figure of several runs
"""
