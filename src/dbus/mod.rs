//! D-Bus adaptor: decode, authorise, one call, encode. One file per object.
