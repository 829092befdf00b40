#!/bin/bash
# Every header compiles alone; the public one also as C11 and as C++.
# usage: headers.sh SOURCE_DIR BUILD_DIR
set -eu
cd "$1"
build=$2
cc=${CC:-cc}
flags="-std=gnu17 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only $(pkg-config --cflags libfabric libprotobuf-c libevent)"
# Made by protoc-c in the build folder.
generated=$(find "$build" -name '*.pb-c.h' -printf '-I%h ' 2>/dev/null || true)
rooms=$(find common proto server client tests -type d -not -path '*/.*' -printf '-I%p ')
bad=0 n=0
for header in $(find common proto server client tests -name '*.h' -not -path '*/.*'); do
	n=$((n + 1))
	# The header's own folder first: names may repeat between rooms.
	# shellcheck disable=SC2086
	if ! printf '#include "%s"\n' "$(basename "$header")" |
		$cc $flags -I"$(dirname "$header")" $rooms $generated -x c - 2>/tmp/ferry-headers.$$; then
		echo "not self-contained: $header"
		head -n 5 /tmp/ferry-headers.$$
		bad=1
	fi
done
rm -f /tmp/ferry-headers.$$
public="-Wall -Wextra -Wpedantic -Werror -fsyntax-only -Iclient/include"
# shellcheck disable=SC2086
echo '#include <ferry.h>' | $cc -std=c11 $public -x c - || { echo "ferry.h is not C11"; bad=1; }
if command -v c++ >/dev/null; then
	# shellcheck disable=SC2086
	echo '#include <ferry.h>' | c++ -std=c++11 $public -x c++ - || { echo "ferry.h is not C++11"; bad=1; }
fi
echo "$n headers"
exit $bad
