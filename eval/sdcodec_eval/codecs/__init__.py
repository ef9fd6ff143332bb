"""The codecs that are compared, behind one small interface."""
