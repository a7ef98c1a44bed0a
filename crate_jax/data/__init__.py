"""From a data set's name to batches on the devices, in an order that is a pure function of (seed, step).

sources        any TFDS data set, the embedded ones and folders of pictures, read by index
order          which example stands where at which step
augment        what becomes of it, stateless in (seed, epoch, index)
pipeline       both together, in a background thread, placed by a sharding
"""
