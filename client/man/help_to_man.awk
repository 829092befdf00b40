# The option list of "ferry COMMAND --help" as man macros.
function esc(s) { gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s); return s }
/^options:/ { on = 1; next }
!on || /^$/ { next }
/^[a-z]+:$/ { sub(/:$/, ""); print ".PP"; print toupper(substr($0, 1, 1)) substr($0, 2) ":"; items = 1; next }
/^        / { sub(/^ +/, ""); print esc($0); next }
items { sub(/^ +/, ""); name = $1; sub(/^[^ ]+ +/, ""); print ".TP"; print ".B " esc(name); print esc($0); next }
{ sub(/^ +/, ""); print ".TP"; print ".B " esc($0) }
