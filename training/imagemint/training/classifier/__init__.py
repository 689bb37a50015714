"""The project's own judges.

recipes.py     the options of each classifier
networks.py    classifiers of digits and of pictures
attributes.py  the classifier of several attributes
training.py    trains a classifier
progress.py    the state of a classifier while it trains
trained.py     reads a trained one
"""
