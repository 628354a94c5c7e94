"""Data sets: the rendered `aircraft23`, COCO-style key point files, and the small networks that ship with the tool."""
