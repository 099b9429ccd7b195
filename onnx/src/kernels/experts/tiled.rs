//! Groups that are computed from tiles of bf16.

use super::Layer;
use crate::kernels::KernelError;
use crate::kernels::bf16_tiles::{
    Bf16Products, Bf16Tiles, Order, TILE_BLOCK, TILE_TOKENS, TokensAt,
};
use crate::kernels::routing::Group;

/// What large groups are computed from where that is faster by bf16.
#[derive(Debug, Default)]
pub(super) struct Tiled {
    /// The groups, and the first tile of each.
    pub(super) groups: Vec<(Group, usize)>,
    /// What comes into the layer.
    pub(super) x: Bf16Tiles,
    /// What is between its projections.
    pub(super) hidden: Bf16Tiles,
}

impl Tiled {
    /// Chooses groups, and makes room for them.
    pub(super) fn choose(
        &mut self,
        groups: &[Group],
        bf16: Option<&dyn Bf16Products>,
        layer: &Layer<'_>,
    ) {
        self.groups.clear();
        let from = bf16.map_or(usize::MAX, |bf16| bf16.experts_from());
        let mut tiles = 0;
        for &group in groups.iter().filter(|group| group.len >= from) {
            self.groups.push((group, tiles));
            tiles += group.len.div_ceil(TILE_TOKENS);
        }
        self.x.reset(tiles, layer.hidden(), Order::Nibbles);
        self.hidden
            .reset(tiles, layer.intermediate(), Order::Nibbles);
    }

    /// Packs the chosen groups' rows of `x`, each part by `run`; `tokens` is the row of
    /// each assignment.
    pub(super) fn pack(
        &mut self,
        bf16: &dyn Bf16Products,
        x: &[f32],
        tokens: &[u32],
        run: impl Fn(usize, &(dyn Fn(usize) + Sync)) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let (blocks, groups) = (self.x.blocks(), &self.groups);
        let width = blocks * TILE_BLOCK;
        let writer = self.x.writer();
        run(groups.len(), &|index| {
            let (group, tile) = groups[index];
            let tokens = &tokens[group.start..][..group.len];
            for (i, tokens) in tokens.chunks(TILE_TOKENS).enumerate() {
                let row = |&token: &u32| &x[token as usize * width..][..width];
                let rows: Vec<&[f32]> = tokens.iter().map(row).collect();
                // SAFETY: groups have tiles of their own.
                unsafe { bf16.pack(&rows, &writer, tile + i, 0..blocks) };
            }
        })
    }
}

/// Where the tokens of `group` lie, if it was chosen.
pub(super) fn find(groups: &[(Group, usize)], group: Group) -> Option<TokensAt> {
    let index = groups.binary_search_by_key(&group.start, |(group, _)| group.start);
    index.ok().map(|index| TokensAt {
        tile: groups[index].1,
        len: group.len,
    })
}
