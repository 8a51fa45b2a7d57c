package remote

// GroupOf is whom an address is counted as.
var GroupOf = groupOf
