#!/bin/sh
# symbols_test.sh NM OBJECT...: fails where an object defines a weak symbol. Such a symbol is an
# inline function or template compiled with instructions that not every machine has.
nm=$1
shift
[ $# -gt 0 ] || { echo "no objects given"; exit 1; }
for object in "$@"; do
  [ -f "$object" ] || { echo "no such object: $object"; exit 1; }
done
found=$("$nm" --defined-only --demangle "$@" | grep -E '^[0-9a-f]* [WVu] ')
[ -z "$found" ] || { echo "weak symbols in instruction-set objects:"; echo "$found"; exit 1; }
