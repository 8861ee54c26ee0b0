//! From blocks of a volume to where their bytes are: trees, journal, clone, snapshot.
