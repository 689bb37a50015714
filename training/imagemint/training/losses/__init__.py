"""The losses of generator and discriminator.

adversarial.py   the adversarial losses and gradient penalties
regularizers.py  further terms: penalties, classes, codes, features
gan_loss.py      all losses of a recipe together
augment.py       augmentation of what the discriminator sees
affine.py        resampling that can be differentiated twice
path_length.py   path length regularisation
ramp.py          weights that change over a run
"""
