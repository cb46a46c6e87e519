"""FlowTurbo, ReDi and LinearAG, which need something trained or recorded first: take a cache before them."""
