# embed.cmake — the bytes of FROM as the list of a C array, into TO. usage: cmake -D FROM=… -D TO=… -P embed.cmake
file(READ ${FROM} bytes HEX)
string(REGEX REPLACE "(................................................................)" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${TO} "${bytes}\n")
