"""Images, labels and preprocessing: `load_dataset` is the way in.

dataset: what a data set is, and which reader takes a path. npz, files: the readers, of arrays, and of image files in a
folder or a zip archive. archive: zip members, piece by piece. geometry: resize and crop. preprocess: options and the
TOML file. limits: how much a data set may take.
"""
