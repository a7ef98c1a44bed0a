"""What is a network worth? Frozen features to a linear or nearest-neighbour classifier, fine-tuning, reconstruction.

features              any layer and pooling of any network, by one name
logistic_regression   the solver of the linear probe
linear_probe          chooses layer, pooling and regularisation on a held-out part of the training set
knn                   the weighted cosine nearest-neighbour classifier
reconstruction        errors and figures of masked completion
"""
