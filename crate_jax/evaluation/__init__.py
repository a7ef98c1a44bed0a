"""What is a network worth? Frozen features to a linear or nearest-neighbour classifier, fine-tuning, reconstruction.

subject             what is evaluated, and where its results go
features            any layer and pooling of any network, by one name
feature_store       features of a whole split, in bounded memory
scatter             features in the plane of their first two principal components
solver, selection   logistic regression; layer, pooling and strength chosen on held-out training examples
probe, attentive    linear classifiers of frozen features, by the protocols of papers
knn                 the weighted cosine nearest-neighbour classifier
reconstruct         masked images completed: errors, PSNR and SSIM
finetune            training on top of a network: `recipe` composes its config, `classification` is what it minimises
monitor             cheap numbers and pictures within pre-training
results             the object that each returns, and the files made of it
"""
