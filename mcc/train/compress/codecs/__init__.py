"""The codecs. One file each; the file's name is the codec's."""
