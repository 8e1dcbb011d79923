"""From files to cells: reading, calibration, segmentation, morphometry, crops, field quality. Arrays in, arrays out.

:func:`cbctool.imaging.field.analyse_field` is the one entry for a decoded field; nothing is imported here, so that
``import cbctool.imaging.headers`` stays light.
"""
