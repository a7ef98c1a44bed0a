"""From a data set's name to batches on the devices, in an order that is a pure function of (seed, step).

sources        TFDS data sets, those inside packages (`embedded`) and folders of pictures, opened
example        what is opened: examples by index
order          which example stands where at which step
rows           reading, decoding, augmenting; stateless in (seed, epoch, index)
loader         Grain makes rows ahead of time, in threads or processes
batches        rows become batches on the devices, in a background thread
pipeline       all of it together: what training and evaluation iterate over
"""
