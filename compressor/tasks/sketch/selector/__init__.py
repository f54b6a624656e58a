"""SketchyNetV2's canvas selector: which canvas each sketch is drawn on.

config.py      the recipe's section `selector`
features.py    what selectors look at: numbers of the strokes, how sure a first look was
glue.py        selectors on a device
policies.py    their networks
rewards.py     what every canvas would have earned, of drawings that the student has not seen
stage.py       training; cascade.py where nothing is trained but thresholds are searched
export.py      the selector's graph in the bundle
analysis.py    is it worth its name: above the line through the fixed canvases
"""
