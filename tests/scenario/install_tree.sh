#!/bin/sh
# install_tree.sh BUILD PREFIX LIBDIR
# Installs to a scratch prefix and looks at what is there: files, symbols, man pages, the header in C and C++.
set -eu
build=$1 prefix=$2 lib=$2/$3
here=$(cd "$(dirname "$0")" && pwd)
fail() { echo "install_tree: $*" >&2; exit 1; }

unset DESTDIR
rm -rf "$prefix"
cmake --install "$build" --prefix "$prefix" > "$prefix.log" 2>&1 || { cat "$prefix.log" >&2; fail "cmake --install failed"; }

for f in bin/ferry bin/ferryd libexec/farferry/ferry-heir include/ferry.h "$3/libferry.so" "$3/pkgconfig/ferry.pc" "$3/cmake/ferry/ferryConfig.cmake" \
	"$3/cmake/ferry/ferryConfigVersion.cmake" "$3/cmake/ferry/ferryTargets.cmake" share/man/man1/ferry.1 \
	share/man/man3/ferry.3 share/man/man3/ferry_open.3 share/man/man8/ferryd.8; do
	[ -e "$prefix/$f" ] || fail "$f is not installed"
done
extra=$(find "$prefix/include" -type f ! -name ferry.h)
[ -z "$extra" ] || fail "more than one header is installed: $extra"

# Public names only, and all of those that the header declares.
nm -D --defined-only "$lib/libferry.so" | awk '{ sub(/@.*/, "", $3); print $2, $3 }' > "$prefix.symbols"
foreign=$(awk '$1 != "A" && $2 !~ /^ferry_/ { print $2 }' "$prefix.symbols")
[ -z "$foreign" ] || fail "libferry.so exports names that are not ferry_*: $foreign"
for page in "$prefix"/share/man/man3/ferry_*.3; do
	f=$(basename "$page" .3)
	grep -q " $f\$" "$prefix.symbols" || fail "$f is declared in ferry.h but libferry.so does not export it"
done
"$here/../../client/man/check.sh" "$lib/libferry.so" "$prefix/share/man/man3" || fail "man pages are not complete"

# The header stands alone, in both languages.
printf '#include <ferry.h>\nint main(void) { return ferry_version() == 0; }\n' > "$prefix.c"
cp "$prefix.c" "$prefix.cc"
${CC:-cc} -std=c11 -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" -fsyntax-only "$prefix.c" || fail "ferry.h is not good C11"
case ${CC:-cc} in
*clang*) cxx=$(echo "${CC}" | sed 's/clang/clang++/') ;;
*) cxx=c++ ;;
esac
if command -v "$cxx" > /dev/null; then
	"$cxx" -std=c++17 -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" -fsyntax-only "$prefix.cc" || fail "ferry.h is not good C++17"
else
	echo "install_tree: no C++ compiler: the header was not tried in C++"
fi
echo "install_tree: ok, $(wc -l < "$prefix.symbols") symbols"
