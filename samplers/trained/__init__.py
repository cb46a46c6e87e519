"""FlowTurbo, ReDi and LinearAG, which need something trained or recorded first: try a cache before them."""
